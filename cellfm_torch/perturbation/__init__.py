"""What happens when genes or compounds act on cells."""
