"""How good the funnel is: metrics as pure functions, and the funnel run over test cases."""
