"""Archives: embedding or scoring of many recordings, as a job of shards that may be repeated."""
