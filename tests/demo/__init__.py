"""`make demo`: the whole product on the local cluster, told as a story that fails if a promise is not kept."""
