{% macro next_clock_time(after, clock, time_zone) -%}
{#-
  The first instant later than `after` at which a clock in `time_zone` shows `clock`, an integer such as 5, 1430 or
  2400: hours times 100 plus minutes, and 2400 is midnight.
-#}
{%- set midnight = "date_trunc('day', timezone(" ~ time_zone ~ ", " ~ after ~ "))::timestamp" -%}
{%- set minutes = "to_minutes((" ~ clock ~ " // 100) * 60 + " ~ clock ~ " % 100)" -%}
case
    when timezone({{ time_zone }}, {{ midnight }} + {{ minutes }}) > {{ after }}
        then timezone({{ time_zone }}, {{ midnight }} + {{ minutes }})
    else timezone({{ time_zone }}, {{ midnight }} + {{ minutes }} + interval '1 day')
end
{%- endmacro %}
