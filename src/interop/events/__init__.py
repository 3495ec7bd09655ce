"""What leaves the server: the one module that opens outgoing HTTP is `egress`."""
