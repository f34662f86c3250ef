"""What a project defines, as frozen facts: entities, feature views, services, event sources, stream plans.

Face: `facts` (entities, views, services), `stream` (event sources and compiled plans), `aggregates` (what each window
function is), `registry` (all definitions, found by name), `changes` (what differs between two registries),
`schedule` (what Airflow's DAGs are made of).
"""
