{#-
  Tests that failed at their last run, by the relation they test, and relations that were not built when last asked for,
  or not with what is upstream of them, in a table beside the relation: `features publish` leaves such a relation alone,
  so that bad rows reach neither training nor serving however the command comes to be run.
-#}

{% macro failed_tests(place) -%}
{{ feature_warehouse.log_table('failed_tests', place) }}
{%- endmacro %}

{% macro create_failed_tests() %}
{%- for place in feature_warehouse.log_places() %}
{{ feature_warehouse.create_place(place) }}
create table if not exists {{ feature_warehouse.failed_tests(place) }} (
    model varchar not null,
    test varchar not null
);
{%- endfor %}
{% endmacro %}

{% macro record_failed_tests(results) %}
{%- set red = ('error', 'fail', 'partial success', 'runtime error') -%}
{%- set built, ran, failed = [], [], [] -%}
{%- for result in results if result.node.resource_type in ('model', 'seed', 'snapshot') and result.node.alias -%}
  {%- do built.append(result.node) -%}
  {%- if result.status in red + ('skipped',) -%}{%- do failed.append((result.node, 'build: ' ~ result.status)) -%}{%- endif -%}
{%- endfor -%}
{%- for result in results if result.node.resource_type == 'test' and result.status in red + ('pass', 'warn') -%}
  {%- do ran.append(result.node.name) -%}
  {%- set tested = [result.node.attached_node] if result.node.attached_node else result.node.depends_on.nodes -%}
  {%- for unique_id in tested if unique_id in graph.nodes and result.status in red -%}
    {%- do failed.append((graph.nodes[unique_id], result.node.name)) -%}
  {%- endfor -%}
{%- endfor -%}
{%- set known = (graph.nodes.values() if execute else []) | selectattr('resource_type', 'equalto', 'test') -%}
{%- set gone_or_ran = "test in ('" ~ ran | join("', '") ~ "') or test not in ('" ~ known | map(attribute='name') | join("', '") ~ "')" -%}
{%- for place in feature_warehouse.log_places() if execute %}
{%- set names = [] -%}
{%- for node in built if feature_warehouse.is_in(node, place) -%}{%- do names.append(node.alias) -%}{%- endfor %}
delete from {{ feature_warehouse.failed_tests(place) }}
where
    case when test like 'build: %' then model in ('{{ names | join("', '") }}') else {{ gone_or_ran }} end
    and not (test like 'build: over %' and model in (
        select builds.model from {{ feature_warehouse.feature_builds(place) }} as builds
        group by all having last(builds.changed_from order by builds.rowid) is not null
    ));
{%- for node, what in failed if feature_warehouse.is_in(node, place) %}
insert into {{ feature_warehouse.failed_tests(place) }} values ('{{ node.alias }}', '{{ what }}');
{%- endfor %}
{%- endfor -%}
{{ feature_warehouse.record_built_over(results | selectattr('status', 'equalto', 'success') | map(attribute='node') | list, failed) }}
{% endmacro %}

{% macro record_built_over(built, failed) %}
{#- Of what was built though a test of what is upstream of it is red: that stays until it is built anew, whole where
    builds append to it, also where the test is green by then. -#}
{%- set red = failed | map('first') | map(attribute='unique_id') | list -%}
{%- set places = feature_warehouse.log_places() if execute else [] -%}
{%- for place in places -%}
  {%- set names = run_query('select distinct model from ' ~ feature_warehouse.failed_tests(place)).columns[0].values() | list -%}
  {%- for node in graph.nodes.values() if node.alias in names and feature_warehouse.is_in(node, place) -%}{%- do red.append(node.unique_id) -%}{%- endfor -%}
{%- endfor -%}
{%- for node in built if red and node.resource_type in ('model', 'seed', 'snapshot') and node.alias -%}
  {%- set upstream = feature_warehouse.upstream_of(node) -%}
  {%- for unique_id in red | unique if unique_id in upstream and unique_id != node.unique_id %}
  {%- set above = upstream[unique_id] %}
insert into {{ feature_warehouse.failed_tests({'database': node.database, 'schema': node.schema}) }}
select distinct
    '{{ node.alias }}' as model,
    case when test like 'build: over %' then test else 'build: over rows that failed ' || test end as test
from {{ feature_warehouse.failed_tests({'database': above.database, 'schema': above.schema}) }}
where model = '{{ above.alias }}' and test not in ('build: error', 'build: skipped');
  {%- endfor -%}
{%- endfor -%}
{% endmacro %}
