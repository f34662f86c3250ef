{% macro column_sql(name) -%}
{#- A column's name as SQL has it, quoted, so that it may be a reserved word; an expression, or a quoted name, as it is. -#}
{{ adapter.quote(name) if modules.re.match('^[A-Za-z_][A-Za-z0-9_]*$', name) else name }}
{%- endmacro %}
