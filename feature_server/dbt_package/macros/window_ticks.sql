{% macro microseconds(length) -%}
{#- '15 minutes', '24 hours', '30 days' -> microseconds. Months have no fixed length and are refused. -#}
{%- set units = {'minute': 60, 'hour': 3600, 'day': 86400} -%}
{%- set match = modules.re.match('^([1-9][0-9]*) (minute|hour|day)s?$', length | string) -%}
{%- if not match -%}
  {{ exceptions.raise_compiler_error(
      "window length: expected a number of minutes, hours or days such as '24 hours', got '" ~ length ~ "'.") }}
{%- endif -%}
{{ return((match.group(1) | int) * units[match.group(2)] * 1000000) }}
{%- endmacro %}

{% macro longest(windows) -%}
{%- set found = namespace(length=none, size=0) -%}
{%- for length in windows if feature_warehouse.microseconds(length) > found.size -%}
  {%- set found.length = length -%}
  {%- set found.size = feature_warehouse.microseconds(length) -%}
{%- endfor -%}
{%- if found.length is none -%}{{ exceptions.raise_compiler_error("windows: expected at least one, got none.") }}{%- endif -%}
{{ return(found.length) }}
{%- endmacro %}

{% macro window_input(events, tick, windows) -%}
{#-
  The rows of relation `events` that a build of windowed features needs: all of them, or in an incremental build those
  from the longest window before the first tick that can get a new row.
  `events` has occurred_at, known_at and superseded_at (null while the row is in force).
-#}
{%- set window = feature_warehouse.longest(windows) -%}
select *
from {{ events }}
{%- if is_incremental() %}
where
    occurred_at >= (
        select least(min(occurred_at), {{ feature_warehouse.known_after() }}) - interval '{{ window }}' - interval '{{ tick }}'
        from {{ events }}
        where known_at > {{ feature_warehouse.known_after() }} or superseded_at > {{ feature_warehouse.known_after() }}
    )
{%- endif -%}
{%- endmacro %}

{% macro window_ticks(events, keys, tick, windows) -%}
{#-
  One row (keys, event_timestamp, created_timestamp) for each tick at which an event of CTE `events` enters or has just
  left one of the windows, and one more whenever a late or corrected event changes what such a tick should have said.
  A window of length w at tick t is [t - w, t]. Rows known already to the build before are left out.
-#}
{%- set key_list = keys | join(', ') -%}
{%- set window = feature_warehouse.longest(windows) -%}
select
    {{ key_list }},
    event_timestamp,
    created_timestamp
from (
    with moves as (
        select
            {{ key_list }},
            greatest(known_at, tick) as known_at,
            tick as event_timestamp
        from (
            select
                {{ key_list }},
                known_at,
                unnest([
                    time_bucket(interval '{{ tick }}', occurred_at + interval '{{ tick }}' - interval '1 microsecond'),
                    {%- for length in windows %}
                    time_bucket(interval '{{ tick }}', occurred_at + interval '{{ length }}') + interval '{{ tick }}'
                    {%- if not loop.last %},{% endif %}
                    {%- endfor %}
                ]) as tick
            from {{ events }}
        )
    ),

    first_known as (
        select
            {{ key_list }},
            event_timestamp,
            min(known_at) as created_timestamp
        from moves
        group by all
    ),

    corrections as (
        select *
        from (
            select
                {{ key_list }},
                occurred_at,
                unnest([known_at, superseded_at]) as known_at
            from {{ events }}
        )
        where known_at > occurred_at
    ),

    corrected as (
        select distinct
            {% for key in keys %}first_known.{{ key }}, {% endfor %}first_known.event_timestamp,
            corrections.known_at as created_timestamp
        from first_known
        inner join corrections
            on
                {% for key in keys %}first_known.{{ key }} = corrections.{{ key }} and {% endfor -%}
                first_known.event_timestamp >= corrections.occurred_at
                and first_known.event_timestamp <= corrections.occurred_at + interval '{{ window }}'
                and first_known.created_timestamp < corrections.known_at
    )

    select * from first_known
    union all
    select * from corrected
)
where created_timestamp > {{ feature_warehouse.known_after() }} and created_timestamp <= {{ feature_warehouse.as_of() }}
{%- endmacro %}

{% macro in_window(ticks, events, keys, window) -%}
{#-
  `ticks` left joined with the `events` of [tick - window, tick] that were in force at the tick's created timestamp.
  To be read as a FROM clause. Each event is offered to the two buckets of the window's length it can matter to, so
  that the join is a hash join whatever the length of the history.
-#}
{%- set size = feature_warehouse.microseconds(window) -%}
{{ ticks }}
left join (
    select
        *,
        unnest([epoch_us(occurred_at) // {{ size }}, epoch_us(occurred_at) // {{ size }} + 1]) as window_bucket
    from {{ events }}
) as {{ events }}
    on
        {% for key in keys %}{{ ticks }}.{{ key }} = {{ events }}.{{ key }} and {% endfor -%}
        epoch_us({{ ticks }}.event_timestamp) // {{ size }} = {{ events }}.window_bucket
        and {{ events }}.occurred_at >= {{ ticks }}.event_timestamp - interval '{{ window }}'
        and {{ events }}.occurred_at <= {{ ticks }}.event_timestamp
        and {{ events }}.known_at <= {{ ticks }}.created_timestamp
        and coalesce({{ events }}.superseded_at > {{ ticks }}.created_timestamp, true)
{%- endmacro %}
