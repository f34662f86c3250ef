{#-
  Live events of a source's table or a seed: they land as files in the folder that its `event_stream` names as `landing`.
  A view beside the models has the rows of both.
-#}

{% macro with_live(events) -%}
{#- The relation with the rows of a table and the events that landed beside it; in a unit test the given rows alone. -#}
{{ events if events.is_cte else feature_warehouse.live_view(events.schema, events.identifier) }}
{%- endmacro %}

{% macro live_view(schema, identifier) -%}
{{ adapter.quote(target.database) }}.{{ adapter.quote(target.schema) }}.{{ adapter.quote(schema ~ '__' ~ identifier ~ '__live') }}
{%- endmacro %}

{% macro landing_of(node) -%}
{%- set meta = node.config.meta or node.meta or {} -%}
{{ return((meta.get('event_stream') or {}).get('landing')) }}
{%- endmacro %}

{% macro create_live_views() %}
{#- On start: the view of each table that is there. -#}
{%- set nodes = (graph.sources.values() | list) + (graph.nodes.values() | selectattr('resource_type', 'equalto', 'seed') | list)
    if execute else [] -%}
{%- for node in nodes if feature_warehouse.landing_of(node) and feature_warehouse.is_there(node) %}
{{ feature_warehouse.create_live_view(node) }};
{%- endfor -%}
{% endmacro %}

{% macro create_live_view(node) %}
{#- The file without rows is for a folder in which nothing landed yet. -#}
{%- set relation = node.relation_name %}
{%- set pattern = feature_warehouse.landing_of(node) | replace("'", "''") -%}
{%- set folder = pattern.rpartition('/')[0] %}
copy (select 0 as part, 0 as event where false) to '{{ folder }}'
(format parquet, partition_by (part), overwrite_or_ignore);
copy (select * from {{ relation }} limit 0) to '{{ folder }}/columns.parquet' (format parquet);
create or replace view {{ feature_warehouse.live_view(node.schema, node.identifier or node.alias) }} as
select * from {{ relation }}
union all by name
select * from read_parquet('{{ pattern }}', union_by_name = true)
{% endmacro %}

{% macro is_there(node) -%}
{#- Asked for by a query: that dbt lists a schema it does not know opens a transaction, which it rolls back. -#}
{{ return(run_query(
    "select count(*) from information_schema.tables where lower(table_catalog) = lower('" ~ node.database
    ~ "') and lower(table_schema) = lower('" ~ node.schema ~ "') and lower(table_name) = lower('"
    ~ (node.identifier or node.alias) ~ "')"
).rows[0][0] > 0) }}
{%- endmacro %}
