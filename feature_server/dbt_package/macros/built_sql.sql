{#-
  The SQL that really ran, of every model, written in the model's own transaction. An instant of the run in it, its own
  or that of the build before, is replaced by a fixed one, so that runs of one definition leave one text. `features
  publish` refuses a view that was built by other SQL than what was applied, or from other rows of a seed: of these a
  hash of the file is left as it was loaded.
-#}

{% macro built_sql(place=none) -%}
{{ feature_warehouse.log_table('built_sql', place) }}
{%- endmacro %}

{% macro built_models(place=none) -%}
{{ feature_warehouse.log_table('built_models', place) }}
{%- endmacro %}

{% macro create_built_sql(place) %}
create table if not exists {{ feature_warehouse.built_sql(place) }} (hash varchar not null, text varchar not null);
create table if not exists {{ feature_warehouse.built_models(place) }} (model varchar not null, hash varchar not null);
delete from {{ feature_warehouse.built_models(place) }}
where rowid not in (select max(rowid) from {{ feature_warehouse.built_models(place) }} group by model);
{% endmacro %}

{% macro text_of_run(node) -%}
{%- set fixed = '2000-01-01T00:00:00Z' -%}
{%- set text = node.compiled_code | trim | replace(feature_warehouse.instant_of_build(), fixed) -%}
{%- set last = feature_warehouse.last_feature_build() if feature_warehouse.is_logged(node) else none -%}
{{ return(text | replace(last.as_of, fixed) if last else text) }}
{%- endmacro %}

{% macro record_built_sql() %}
{%- if execute and model.compiled_code -%}
{%- set text = feature_warehouse.text_of_run(model) -%}
{%- set hash = local_md5(text) -%}
insert into {{ feature_warehouse.built_sql() }}
select '{{ hash }}', '{{ text | replace("'", "''") }}'
where not exists (from {{ feature_warehouse.built_sql() }} where hash = '{{ hash }}');
insert into {{ feature_warehouse.built_models() }} values ('{{ model.unique_id }}', '{{ hash }}')
{%- endif -%}
{% endmacro %}

{% macro record_loaded_seed() %}
{%- set places = [model.original_file_path, 'dbt_packages/' ~ model.package_name ~ '/' ~ model.original_file_path,
    model.root_path ~ '/' ~ model.original_file_path] -%}
{%- set files = [] -%}
{%- for place in places if execute -%}
  {%- do files.extend(run_query("select file from glob('" ~ place | replace("'", "''") ~ "')").columns[0].values()) -%}
{%- endfor -%}
{%- if files -%}
insert into {{ feature_warehouse.built_models() }}
select
    '{{ model.unique_id }}',
    md5(replace(replace(ltrim(content, chr(65279)), chr(13) || chr(10), chr(10)), chr(13), chr(10)))
from read_text('{{ files[0] | replace("'", "''") }}')
{%- endif -%}
{% endmacro %}

{% macro made_from(node) -%}
{#- An expression: the model and all upstream of it, with the hash of the SQL, or a seed's rows, it was last built by. -#}
(
    select string_agg(model || ' ' || hash, ',' order by model)
    from (
{%- set nodes = feature_warehouse.upstream_of(node) -%}
{%- for place in feature_warehouse.log_places(nodes.values()) %}
        select model, hash
        from {{ feature_warehouse.built_models(place) }}
        where
            rowid in (select max(rowid) from {{ feature_warehouse.built_models(place) }} group by model)
            and model in ('{{ nodes.keys() | join("', '") }}')
        {% if not loop.last %}union all{% endif %}
{%- endfor %}
    ) as known
)
{%- endmacro %}
