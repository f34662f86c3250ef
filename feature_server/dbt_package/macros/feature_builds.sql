{#-
  The build log, of feature views and of other models that builds append to. A feature view's rows never change once
  written: a late or corrected source row adds a row with a later created timestamp. So an incremental build appends the rows known after the `as_of` of the build before it, and the
  log says from which event timestamp on a build has added anything (null: the whole relation was rebuilt), by which
  definition, and by which SQL of the model and of all upstream of it the rows were made (`built_sql.sql`).
-#}

{% macro feature_builds(place=none) -%}
{{ feature_warehouse.log_table('feature_builds', place) }}
{%- endmacro %}

{% macro create_feature_builds() %}
{%- for place in feature_warehouse.log_places() %}
{{ feature_warehouse.create_place(place) }}
create table if not exists {{ feature_warehouse.feature_builds(place) }} (
    model varchar not null,
    built_at timestamptz not null,
    as_of timestamptz not null,
    changed_from timestamptz,
    invocation_id varchar not null,
    definition varchar,
    made_from varchar
);
alter table {{ feature_warehouse.feature_builds(place) }} add column if not exists made_from varchar;
{{ feature_warehouse.create_built_sql(place) }}
{%- endfor %}
{% endmacro %}

{% macro is_logged(node) -%}
{#- Whether the log has the builds of a model: of a feature view, and of what builds append to. -#}
{{ return(node.config.meta.feature_view or node.config.materialized == 'incremental') }}
{%- endmacro %}

{% macro upstream_of(node) -%}
{#- The node itself and every model it is made from, by unique id. -#}
{%- set found = {} -%}
{%- set waiting = [node.unique_id] -%}
{%- for _ in range(10000) if waiting -%}
  {%- set unique_id = waiting.pop() -%}
  {%- if unique_id not in found and unique_id in graph.nodes -%}
    {%- do found.update({unique_id: graph.nodes[unique_id]}) -%}
    {%- do waiting.extend(graph.nodes[unique_id].depends_on.nodes) -%}
  {%- endif -%}
{%- endfor -%}
{{ return(found) }}
{%- endmacro %}

{% macro applied_definition(node) -%}
{#- What `features apply` last said of the model, by which its definition is told from others; empty before it has. -#}
{%- set home = env_var('FEATURES_HOME', '.features') -%}
{%- for folder in [
    home ~ '/targets/' ~ target.profile_name ~ '.' ~ target.name, home ~ '/targets/' ~ target.name, home
] -%}
  {%- set path = (folder ~ '/definitions.json') | replace("'", "''") -%}
  {%- if run_query("select count(*) from glob('" ~ path ~ "')").rows[0][0] -%}
    {{ return(fromjson(run_query("select content from read_text('" ~ path ~ "')").rows[0][0]).get(node.unique_id, '')) }}
  {%- endif -%}
{%- endfor -%}
{{ return('') }}
{%- endmacro %}

{% macro definition_of(node) -%}
{#- A hash of the model's SQL and contract and of every model upstream of it; behind a space what was applied of it. -#}
{%- set parts = [] -%}
{%- for unique_id, found in feature_warehouse.upstream_of(node) | dictsort -%}
  {%- do parts.append(unique_id ~ found.checksum.checksum ~ ((found.contract or {}).checksum or '')) -%}
{%- endfor -%}
{{ return((local_md5(parts | join(' ')) ~ ' ' ~ feature_warehouse.applied_definition(node)) | trim) }}
{%- endmacro %}

{% macro last_feature_build() %}
  {%- set known = adapter.get_relation(this.database, this.schema, 'feature_builds') -%}
  {%- if known is none -%}{{ return(none) }}{%- endif -%}
  {%- set rows = run_query(
      "select strftime(as_of, '%Y-%m-%dT%H:%M:%S.%fZ'), definition, as_of > " ~ feature_warehouse.as_of() ~ ", made_from from " ~ feature_warehouse.feature_builds()
      ~ " where model = '" ~ this.identifier ~ "' and invocation_id <> '" ~ invocation_id
      ~ "' order by rowid desc limit 1").rows -%}
  {%- if rows | length == 0 -%}{{ return(none) }}{%- endif -%}
  {{ return({'as_of': rows[0][0], 'definition': rows[0][1], 'is_ahead': rows[0][2], 'made_from': rows[0][3]}) }}
{% endmacro %}

{% macro is_built_by(last, definition) %}
{#- Whether a build was by this definition: as applied, or where one of the two is from before that, by its files. -#}
  {% set before, now = (last.definition or '').split(' '), definition.split(' ') %}
  {% if now | length == 2 and not last.made_from %}{% do return(false) %}{% endif %}
  {% set place = 1 if before | length == 2 and now | length == 2 else 0 %}
  {% do return(before[place] == now[place]) %}
{% endmacro %}

{% macro should_full_refresh() %}
{#- dbt's own rule, and for what the log has also: no earlier build, another definition, or a clock that was set back. -#}
  {% set asked = config.get('full_refresh') %}
  {% set asked = flags.FULL_REFRESH if asked is none else asked %}
  {% if asked or not execute or flags.WHICH == 'compile' or not feature_warehouse.is_logged(model) %}
    {% do return(asked) %}
  {% endif %}
  {% set last = feature_warehouse.last_feature_build() %}
  {% do return(last is none or not feature_warehouse.is_built_by(last, feature_warehouse.definition_of(model)) or last.is_ahead) %}
{% endmacro %}

{% macro known_after() -%}
{#- Rows known after this instant are missing in the relation: the `as_of` of the build before, or -infinity. -#}
{%- if is_incremental() and flags.WHICH == 'compile' -%}
{{ feature_warehouse.as_of() }}
{%- else -%}
timestamptz '{{ feature_warehouse.last_feature_build().as_of if is_incremental() else "-infinity" }}'
{%- endif -%}
{%- endmacro %}

{% macro open_feature_build() %}
{%- if execute and feature_warehouse.is_logged(model) -%}
insert into {{ feature_warehouse.feature_builds() }} (model, built_at, as_of, changed_from, invocation_id, definition) values (
    '{{ this.identifier }}',
    timestamptz '{{ run_started_at }}',
    {{ feature_warehouse.as_of() }},
    {{ feature_warehouse.as_of() if is_incremental() else 'null' }},
    '{{ invocation_id }}',
    '{{ feature_warehouse.definition_of(model) }}'
)
{%- endif -%}
{% endmacro %}

{% macro close_feature_build() %}
{%- set view = model.config.meta.feature_view -%}
{%- set last = feature_warehouse.last_feature_build() if execute and view else none -%}
{%- if execute and feature_warehouse.is_logged(model) -%}
update {{ feature_warehouse.feature_builds() }}
set made_from = {{ feature_warehouse.made_from(model) }}
where model = '{{ this.identifier }}' and invocation_id = '{{ invocation_id }}';
{%- endif %}
{% if last -%}
{%- set event_timestamp = view.event_timestamp or 'event_timestamp' -%}
update {{ feature_warehouse.feature_builds() }}
set changed_from = least(changed_from, (
    select min({{ event_timestamp }}) from {{ this }}
    where {{ view.created_timestamp or event_timestamp }} > timestamptz '{{ last.as_of }}'
))
where model = '{{ this.identifier }}' and invocation_id = '{{ invocation_id }}' and changed_from is not null
{%- endif -%}
{% endmacro %}
