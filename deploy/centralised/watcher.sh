#!/bin/sh
# Run once, when the database is made: who looks at dashboards may send any SQL, so their role may read, and nothing else.
set -eu
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\set password `cat /run/secrets/watch_password`
set log_statement = 'none';
set log_min_error_statement = panic;
create role watcher login password :'password' in role pg_read_all_data;
SQL
