{#-
  Appending what became known is right only while nothing learnt earlier changes. A staging view keeps the `as_of` of the
  run that made it, so until the next run it must go on giving the very same rows. Where it does not, because files were
  replaced, removed or added with an ingestion time of the past, the feature views made from it are rebuilt from nothing.
-#}

{% macro staged_rows() -%}
{{ target.schema }}.staged_rows
{%- endmacro %}

{% macro create_staged_rows() %}
create table if not exists {{ feature_warehouse.staged_rows() }} (
    model varchar not null,
    row_count bigint not null,
    row_hash hugeint
)
{% endmacro %}

{% macro is_staging(node) -%}
{#- A view on what lands: it reads a source itself. -#}
{%- set is_view = node.resource_type == 'model' and node.config.materialized == 'view' -%}
{{ return(is_view and (' ' ~ node.depends_on.nodes | join(' ')).find(' source.') >= 0) }}
{%- endmacro %}

{% macro count_staged_rows(nodes) %}
{#- SQL for (model, row_count, row_hash) of staging models. -#}
{%- for node in nodes %}
select
    '{{ node.alias }}' as model,
    count(*) as row_count,
    sum(hash(staged)) as row_hash
from {{ node.relation_name }} as staged
{%- if not loop.last %}
union all
{%- endif %}
{%- endfor %}
{% endmacro %}

{% macro distrust_rewritten_history() %}
{#- On start: views downstream of a staging model that no longer gives the rows of the last run lose their definition. -#}
{%- if execute and flags.WHICH in ('build', 'run') -%}
{%- set known = run_query("select distinct model from " ~ feature_warehouse.staged_rows()).columns[0].values() -%}
{%- set present = [] -%}
{%- for node in graph.nodes.values() if feature_warehouse.is_staging(node) and node.alias in known -%}
  {%- if adapter.get_relation(node.database, node.schema, node.alias) -%}{%- do present.append(node) -%}{%- endif -%}
{%- endfor -%}
{%- if present -%}
{%- set counted = run_query(
    "select counted.model from (" ~ feature_warehouse.count_staged_rows(present) ~ ") as counted inner join " ~ feature_warehouse.staged_rows()
    ~ " as stored using (model) where (counted.row_count, counted.row_hash) is distinct from"
    ~ " (stored.row_count, stored.row_hash)") -%}
{%- set rewritten = counted.columns[0].values() -%}
{%- set distrusted = {} -%}
{%- for node in graph.nodes.values() if rewritten and feature_warehouse.is_logged(node) -%}
  {%- for parent in feature_warehouse.upstream_of(node).values() if parent.alias in rewritten -%}
    {%- do distrusted.update({node.unique_id: node}) -%}
  {%- endfor -%}
{%- endfor -%}
{%- if distrusted -%}
{%- do log("rows of " ~ rewritten | join(', ') ~ " have changed since the last run: rebuilding the feature views made"
    ~ " from them", info=true) -%}
{%- for node in distrusted.values() %}
update {{ feature_warehouse.feature_builds(node) }} set definition = null where model = '{{ node.alias }}';
{%- endfor -%}
{%- endif -%}
{%- endif -%}
{%- endif -%}
{% endmacro %}

{% macro record_staged_rows(results) %}
{%- set built = [] -%}
{%- for result in results if result.status == 'success' and feature_warehouse.is_staging(result.node) -%}
  {%- do built.append(result.node) -%}
{%- endfor -%}
{%- if built -%}
delete from {{ feature_warehouse.staged_rows() }} where model in ('{{ built | map(attribute='alias') | join("', '") }}');
insert into {{ feature_warehouse.staged_rows() }}
{{ feature_warehouse.count_staged_rows(built) }}
{%- endif -%}
{% endmacro %}
