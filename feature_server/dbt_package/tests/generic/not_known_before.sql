{% test not_known_before(model, column, event) %}
{#- Nothing is known before it has happened. -#}
select *
from {{ model }}
where {{ column }} < {{ event }}
{% endtest %}
