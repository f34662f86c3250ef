{#-
  Live events of a source that is a table: they land as files in the folder that its `event_stream` names as `landing`.
  A view beside the models has the rows of both.
-#}

{% macro with_live(source) -%}
{#- The relation with the rows of a source's table and the events that landed beside it. -#}
{{ feature_warehouse.live_view(source.schema, source.identifier) }}
{%- endmacro %}

{% macro live_view(schema, identifier) -%}
{{ adapter.quote(target.database) }}.{{ adapter.quote(target.schema) }}.{{ adapter.quote(schema ~ '__' ~ identifier ~ '__live') }}
{%- endmacro %}

{% macro create_live_views() %}
{#- On start: the view of each table that is there. The file without rows is for a folder in which nothing landed yet. -#}
{%- for node in (graph.sources.values() if execute else []) -%}
{%- set meta = node.config.meta or node.meta or {} -%}
{%- set landing = (meta.get('event_stream') or {}).get('landing') -%}
{%- if landing and feature_warehouse.is_there(node) %}
{%- set relation = node.relation_name %}
{%- set pattern = landing | replace("'", "''") -%}
{%- set folder = pattern.rpartition('/')[0] %}
copy (select 0 as part, 0 as event where false) to '{{ folder }}'
(format parquet, partition_by (part), overwrite_or_ignore);
copy (select * from {{ relation }} limit 0) to '{{ folder }}/columns.parquet' (format parquet);
create or replace view {{ feature_warehouse.live_view(node.schema, node.identifier) }} as
select * from {{ relation }}
union all by name
select * from read_parquet('{{ pattern }}', union_by_name = true);
{%- endif -%}
{%- endfor -%}
{% endmacro %}

{% macro is_there(node) -%}
{#- Asked for by a query: that dbt lists a schema it does not know opens a transaction, which it rolls back. -#}
{{ return(run_query(
    "select count(*) from information_schema.tables where lower(table_catalog) = lower('" ~ node.database
    ~ "') and lower(table_schema) = lower('" ~ node.schema ~ "') and lower(table_name) = lower('" ~ node.identifier ~ "')"
).rows[0][0] > 0) }}
{%- endmacro %}
