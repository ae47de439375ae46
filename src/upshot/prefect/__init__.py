"""What Prefect's own client needs of its server, translated to the same core and storage."""
