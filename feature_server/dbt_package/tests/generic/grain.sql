{% test grain(model, columns) %}
{#- One row per `columns`, none of them null. -#}
select
    {{ columns | join(', ') }},
    count(*) as rows_found
from {{ model }}
group by all
having rows_found > 1 or {% for column in columns %}{{ column }} is null{% if not loop.last %} or {% endif %}{% endfor %}

{% endtest %}
