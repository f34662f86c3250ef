{% macro as_of() -%}
{#- The instant the build speaks of, as a SQL literal. Nothing learnt later may be read. -#}
{%- set value = var('as_of') | string -%}
{%- set pattern = '^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?(Z|\+00:00)$' -%}
{%- if not modules.re.match(pattern, value) -%}
  {{ exceptions.raise_compiler_error(
      "var as_of: expected an ISO UTC timestamp such as 2013-12-31T23:00:00Z, got '" ~ value
      ~ "'. Pass --vars '{as_of: \"2013-12-31T23:00:00Z\"}'.") }}
{%- endif -%}
timestamptz '{{ value }}'
{%- endmacro %}
