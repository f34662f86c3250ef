{% test fresh(model, column, within) %}
{#-
  The newest row is at most `within` older than the instant the build speaks of. dbt's own source freshness compares with
  the wall clock, which says nothing of a build for an earlier instant.
-#}
select max({{ feature_warehouse.column_sql(column) }}) as newest
from {{ model }}
having coalesce(newest < {{ feature_warehouse.as_of() }} - interval '{{ within }}', true)
{% endtest %}
