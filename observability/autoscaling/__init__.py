"""What autoscalers are told of a pool, in their own protocols. Decision: docs/decisions/0017-autoscaling.md."""
