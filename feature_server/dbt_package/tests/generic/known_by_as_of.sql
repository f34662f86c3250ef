{% test known_by_as_of(model, column) %}
{#- Nothing from after the instant the build speaks of. -#}
select *
from {{ model }}
where {{ column }} > {{ feature_warehouse.as_of() }}
{% endtest %}
