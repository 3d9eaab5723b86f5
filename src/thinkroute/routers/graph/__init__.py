"""GraphRouter: a graph of queries, arms and tasks, in which new arms can be placed without retraining."""
