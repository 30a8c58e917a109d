"""The values that flow through the control pipeline: ClusterState in, Graph out."""
