"""What there is: any process, namespace, mount or socket of this host, whoever made it. Reads, changes nothing."""
