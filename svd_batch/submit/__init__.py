"""Hands a job to a cluster. Each kind of cluster has a module; the job itself is the verb `run` or `refine`."""
