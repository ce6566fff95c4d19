"""The only room that talks to the API server, and to the agents of server pods. Observes and acts; decides nothing."""
