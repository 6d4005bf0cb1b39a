-- The sample app's first rows: about as many as the setting demo.rows says.

INSERT INTO sessions (created_at, metadata)
SELECT now() - n * interval '1 minute',
       jsonb_build_object('n', n, 'note', E'tab\t, "quotes", back\\slash, é, 🐘', 'ratio', n / 7.0)
  FROM generate_series(1, greatest(current_setting('demo.rows')::int / 10, 10)) n;

ALTER TABLE histories DISABLE TRIGGER USER;
INSERT INTO histories (session_id, role, content, metadata)
SELECT 1 + n % (SELECT count(*)::int FROM sessions), (ARRAY['user', 'assistant', 'system'])[1 + n % 3],
       'line ' || n || E'\nand another\ttabbed \\N', CASE n % 4 WHEN 0 THEN NULL ELSE '{"tokens": 12}' END::jsonb
  FROM generate_series(1, greatest(current_setting('demo.rows')::int * 4 / 10, 10)) n;
ALTER TABLE histories ENABLE TRIGGER USER;

INSERT INTO proposals (history_id, content, metadata)
SELECT 1 + n % (SELECT count(*)::int FROM histories), repeat(md5(n::text), 1 + n % 8),
       jsonb_build_object('ticket', nextval('ticket_numbers'))
  FROM generate_series(1, greatest(current_setting('demo.rows')::int * 2 / 10, 10)) n;

INSERT INTO accounts (handle, preferred, allowed, avatar, balance, score)
SELECT 'Account ' || n, (enum_range(NULL::channel))[1 + n % 4], (enum_range(NULL::channel))[1 + n % 3:4],
       CASE n % 5 WHEN 0 THEN NULL ELSE decode(md5(n::text), 'hex') || '\x005c0a09' END, n / 3.0,
       CASE n % 7 WHEN 0 THEN 'NaN' WHEN 1 THEN '-Infinity' ELSE n / 3.0 END::double precision
  FROM generate_series(1, greatest(current_setting('demo.rows')::int / 20, 20)) n;

INSERT INTO documents (title, body)
SELECT 'Document ' || n, repeat(md5(n::text), 150 + n % 10 * 60)
  FROM generate_series(1, greatest(current_setting('demo.rows')::int / 50, 5)) n;

INSERT INTO events (happened_at, kind, payload)
SELECT timestamptz '2019-12-25 00:00:00+00' + n % 14 * interval '1 day', 'kind ' || n % 5, jsonb_build_object('n', n)
  FROM generate_series(1, greatest(current_setting('demo.rows')::int * 15 / 100, 20)) n;

INSERT INTO visits (path, visitor, seconds)
SELECT '/page/' || n % 20, ('203.0.113.' || n % 3)::inet, n % 4 / 3.0
  FROM generate_series(1, greatest(current_setting('demo.rows')::int * 7 / 100, 20)) n;

INSERT INTO writers (id) SELECT generate_series(1, current_setting('demo.writers')::int);

ANALYZE;
