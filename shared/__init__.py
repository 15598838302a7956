"""What two or more services share: contracts, ports and their adapters. Imports no service."""
