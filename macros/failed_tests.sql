{#-
  Tests that failed at their last run, by the relation they test, and relations that were not built when last asked for,
  or not with what is upstream of them: `features publish` leaves such a relation alone, so that bad rows reach neither
  training nor serving however the command comes to be run.
-#}

{% macro failed_tests() -%}
{{ target.schema }}.failed_tests
{%- endmacro %}

{% macro create_failed_tests() %}
create table if not exists {{ failed_tests() }} (
    model varchar not null,
    test varchar not null
)
{% endmacro %}

{% macro record_failed_tests(results) %}
{%- set ran = [] -%}
{%- set built = [] -%}
{%- set failed = [] -%}
{%- for result in results if result.node.resource_type in ('model', 'seed', 'snapshot') and result.node.alias -%}
  {%- do built.append("'" ~ result.node.alias ~ "'") -%}
  {%- if result.status in ('error', 'skipped', 'partial success', 'runtime error') -%}
    {%- do failed.append("('" ~ result.node.alias ~ "', 'build: " ~ result.status ~ "')") -%}
  {%- endif -%}
{%- endfor -%}
{%- for result in results if result.node.resource_type == 'test' and result.status in ('pass', 'warn', 'fail', 'error', 'runtime error') -%}
  {%- set test = result.node.name -%}
  {%- do ran.append("'" ~ test ~ "'") -%}
  {%- if result.status in ('fail', 'error', 'runtime error') -%}
    {%- set tested = [result.node.attached_node] if result.node.attached_node else result.node.depends_on.nodes -%}
    {%- for unique_id in tested if unique_id in graph.nodes -%}
      {%- do failed.append("('" ~ graph.nodes[unique_id].alias ~ "', '" ~ test ~ "')") -%}
    {%- endfor -%}
  {%- endif -%}
{%- endfor -%}
{%- if built -%}
delete from {{ failed_tests() }} where test like 'build: %' and model in ({{ built | join(', ') }});
{%- endif -%}
{%- if ran -%}
delete from {{ failed_tests() }} where test in ({{ ran | join(', ') }});
{%- endif -%}
{%- set known = (graph.nodes.values() if execute else []) | selectattr('resource_type', 'equalto', 'test') -%}
{%- set names = known | map(attribute='name') | list -%}
{%- if execute -%}
delete from {{ failed_tests() }} where test not like 'build: %' and test not in ('{{ names | join("', '") }}');
{%- endif -%}
{%- if failed -%}
insert into {{ failed_tests() }} values {{ failed | join(', ') }};
{%- endif -%}
{% endmacro %}
