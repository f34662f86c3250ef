{#-
  Where builds note what they did: in tables beside the models, in each database and schema that has some, so that a note
  is written in the transaction of its model, and is found by its relation.
-#}

{% macro log_table(name, place=none) -%}
{#- A table of the log in a place, by default beside the model: a transaction writes to one database alone. -#}
{%- set place = place or this or target -%}
{{ adapter.quote(place.database) }}.{{ adapter.quote(place.schema) }}.{{ name }}
{%- endmacro %}

{% macro log_places(nodes=none) -%}
{#- Each database and schema that nodes, by default all of the project, are in; the target's own first. -#}
{%- set found = [{'database': target.database, 'schema': target.schema}] -%}
{%- set nodes = nodes or (graph.nodes.values() if execute else []) -%}
{%- for node in nodes if node.resource_type in ('model', 'seed', 'snapshot') -%}
  {%- set place = {'database': node.database, 'schema': node.schema} -%}
  {%- if node.config.materialized != 'ephemeral' and place not in found -%}{%- do found.append(place) -%}{%- endif -%}
{%- endfor -%}
{{ return(found) }}
{%- endmacro %}

{% macro is_in(node, place) -%}
{{ return((node.database, node.schema) == (place.database, place.schema)) }}
{%- endmacro %}

{% macro create_place(place) -%}
create schema if not exists {{ adapter.quote(place.database) }}.{{ adapter.quote(place.schema) }};
{%- endmacro %}
