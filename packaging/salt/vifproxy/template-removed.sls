{#- In the template of the netvm. -#}
vifproxy-package-removed:
  pkg.removed:
    - name: vifproxy
