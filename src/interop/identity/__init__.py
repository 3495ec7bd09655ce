"""Who a person is: sign-in, second factor, external providers, sessions, users and their roles."""
