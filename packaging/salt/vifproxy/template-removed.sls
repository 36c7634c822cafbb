{#- In the template of the netvm and of the AppVMs. -#}
vifproxy-packages-removed:
  pkg.removed:
    - pkgs:
      - vifproxy
      - vifproxy-client
