"""What an operator sees: metrics, health, rules and dashboards."""
