"""The replay: episodes in contiguous storage, segments sampled from them, frames encoded once an epoch."""
