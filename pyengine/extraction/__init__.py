"""Any set of reducers over a corpus in one resumable, shardable pass."""
