"""Stored objects on their way to others: rules, destinations, deliveries."""
