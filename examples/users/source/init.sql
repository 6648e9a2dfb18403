-- The schema and its first rows. It may run again at any time: what is there stays as it is.

CREATE TABLE IF NOT EXISTS users (
    id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name  text   NOT NULL CHECK (name <> ''),
    email text   NOT NULL UNIQUE CHECK (email LIKE '%_@_%')
);

-- Only into an empty table: whoever was deleted on purpose does not come back.
INSERT INTO users (name, email)
SELECT name, email
FROM (VALUES
    (1, 'Ada Lovelace', 'ada@example.com'),
    (2, 'Alan Turing',  'alan@example.com'),
    (3, 'Grace Hopper', 'grace@example.com')
) AS first (position, name, email)
WHERE NOT EXISTS (SELECT FROM users)
ORDER BY position;
