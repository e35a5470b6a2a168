"""KVCacheStore and its parts: RAM, disk, index, worker threads."""
