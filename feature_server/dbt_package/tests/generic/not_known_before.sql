{% test not_known_before(model, column, event) %}
{#- Nothing is known before it has happened. -#}
select *
from {{ model }}
where {{ feature_warehouse.column_sql(column) }} < {{ feature_warehouse.column_sql(event) }}
{% endtest %}
