{% macro labels_directory() -%}
{{ env_var('FEATURES_HOME', '.features') }}/labels
{%- endmacro %}

{% macro create_labels_directory() %}
{#- DuckDB's COPY makes a directory only when it partitions; no rows, so no file. -#}
copy (select 0 as part, 0 as label where false) to '{{ labels_directory() }}'
(format parquet, partition_by (part), overwrite_or_ignore)
{% endmacro %}
