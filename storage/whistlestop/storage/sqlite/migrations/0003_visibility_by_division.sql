-- Nearly every list is of one namespace division, or of rows that have none. With the division in front, a page reads no
-- rows of other divisions.
CREATE INDEX executions_visibility_by_division ON executions_visibility
    (namespace_id, COALESCE(CASE WHEN json_type(search_attributes, '$.TemporalNamespaceDivision') = 'text'
        THEN json_extract(search_attributes, '$.TemporalNamespaceDivision') END, '-'),
    COALESCE(close_time, 9223372036854775807) DESC, start_time DESC, run_id);
DROP INDEX executions_visibility_order;
