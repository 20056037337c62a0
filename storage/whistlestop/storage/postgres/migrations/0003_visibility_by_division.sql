-- A list is nearly always of one namespace division, or of what has none: with it in front, no page passes over others.
CREATE INDEX executions_visibility_by_division ON executions_visibility
    (namespace_id, (COALESCE(CASE WHEN jsonb_typeof(search_attributes::jsonb -> 'TemporalNamespaceDivision') = 'string'
        THEN search_attributes::jsonb ->> 'TemporalNamespaceDivision' END, '-')),
    (COALESCE(close_time, 9223372036854775807)) DESC, start_time DESC, run_id);
DROP INDEX executions_visibility_order;
