{% macro as_of() -%}
{#- The instant the build speaks of, as a SQL literal. Nothing learnt later may be read. -#}
timestamptz '{{ feature_warehouse.instant_of_build() }}'
{%- endmacro %}

{% macro instant_of_build() -%}
{#- The variable `as_of`, or where it is `now` or none is set, when the run began: an ISO UTC timestamp. -#}
{%- set value = var('as_of', 'now') | string -%}
{%- if value == 'now' -%}
  {{ return(run_started_at.astimezone(modules.pytz.utc).strftime('%Y-%m-%dT%H:%M:%S.%fZ')) }}
{%- endif -%}
{%- set pattern = '^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?(Z|\+00:00)$' -%}
{%- if not modules.re.match(pattern, value) -%}
  {{ exceptions.raise_compiler_error(
      "var as_of: expected an ISO UTC timestamp such as 2013-12-31T23:00:00Z, or now, got '" ~ value
      ~ "'. Pass --vars '{as_of: \"2013-12-31T23:00:00Z\"}'.") }}
{%- endif -%}
{{ return(value) }}
{%- endmacro %}
