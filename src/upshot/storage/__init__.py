"""The only SQL: schema, log, key state, runs, deployments, API keys, embedded Postgres."""
