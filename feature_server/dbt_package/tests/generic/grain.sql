{% test grain(model, columns) %}
{#- One row per `columns`, none of them null. -#}
select
    {% for column in columns %}{{ feature_warehouse.column_sql(column) }}, {% endfor %}
    count(*) as rows_found
from {{ model }}
group by all
having rows_found > 1 or {% for column in columns %}{{ feature_warehouse.column_sql(column) }} is null{% if not loop.last %} or {% endif %}{% endfor %}

{% endtest %}
