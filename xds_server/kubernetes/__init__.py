"""The Kubernetes API in and out: objects -> Latest[ClusterState], Latest[Graph] -> status. Shells around pure parts.

```text
access -> Api --reflect--> Store -> source -> Latest[ClusterState]      pure: cursor, store, resources, held
           ^--- discover     '----> Held ---> writer --patches--> Api   pure: pacing
           '--------------- lease -> Latest[bool] ----^                 pure: election
```
"""
