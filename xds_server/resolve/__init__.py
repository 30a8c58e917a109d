"""resolve: ClusterState -> Graph."""
