{% macro should_full_refresh() %}
{#- dbt asks its own macro, or the project's: a package's has to be called by it. -#}
{{ return(feature_warehouse.should_full_refresh()) }}
{% endmacro %}
