{% test in_range(model, column_name, min=none, max=none) %}
{#- Values from `min` to `max`, both included; nulls pass. -#}
{%- if min is none and max is none -%}
  {{ exceptions.raise_compiler_error("in_range of " ~ column_name ~ ": expected min, max or both, got neither.") }}
{%- endif %}
select {{ feature_warehouse.column_sql(column_name) }}
from {{ model }}
where
    {% if min is not none %}{{ feature_warehouse.column_sql(column_name) }} < {{ min }}{% endif %}
    {%- if min is not none and max is not none %} or {% endif %}
    {%- if max is not none %}{{ feature_warehouse.column_sql(column_name) }} > {{ max }}{% endif %}
{% endtest %}
