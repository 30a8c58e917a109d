"""Where the objects come from: shells that publish to Latest[ClusterState]."""
