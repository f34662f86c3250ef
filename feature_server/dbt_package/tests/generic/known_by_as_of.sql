{% test known_by_as_of(model, column) %}
{#- Nothing from after the instant the build speaks of. -#}
select *
from {{ model }}
where {{ feature_warehouse.column_sql(column) }} > {{ feature_warehouse.as_of() }}
{% endtest %}
