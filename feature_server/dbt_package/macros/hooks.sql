{#-
  What a project calls, in one line each. Those of a run belong to the package, and dbt runs them by themselves.
-#}

{% macro create_log() %}
{{ feature_warehouse.create_feature_builds() }}
{{ feature_warehouse.create_staged_rows() }};
{{ feature_warehouse.create_failed_tests() }}
{% endmacro %}

{% macro before_model() %}
{{ feature_warehouse.open_feature_build() }}
{% endmacro %}

{% macro after_model() %}
{%- set built = feature_warehouse.record_built_sql() | trim -%}
{%- set closed = feature_warehouse.close_feature_build() | trim -%}
{{ ([built, closed] | select | join(';\n')) }}
{% endmacro %}

{% macro after_seed() %}
{%- set loaded = feature_warehouse.record_loaded_seed() | trim -%}
{%- set live = feature_warehouse.create_live_view(model) | trim if feature_warehouse.landing_of(model) else '' -%}
{{ ([loaded, live] | select | join(';\n')) }}
{% endmacro %}
